#!/usr/bin/env python
import os
import sys

from core.processes import seal_process

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "deepextension.settings")
    # Before anything else: until then others of this user can read this process's environment.
    seal_process()
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
