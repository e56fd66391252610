"""supervisord, hidden from other processes of the same user:

python -m core.supervise -c supervisord.conf
"""

from __future__ import annotations

from core.processes import seal_process

if __name__ == "__main__":
    # Its environment has the secrets that it hands to the platform's processes.
    seal_process()
    from supervisor.supervisord import main

    main()
