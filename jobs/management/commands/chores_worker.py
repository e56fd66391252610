from __future__ import annotations

from jobs.management.commands.jobs_worker import Command as JobsWorkerCommand


class Command(JobsWorkerCommand):
    help = "The earlier name of jobs_worker, for machines that start it by that."
