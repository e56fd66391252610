import os

from django.core.wsgi import get_wsgi_application

from core.processes import seal_process

seal_process()
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "deepextension.settings")

application = get_wsgi_application()
