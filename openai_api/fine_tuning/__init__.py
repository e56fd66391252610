"""Fine-tuning jobs: what programs ask for, and the trains that are made of it.

methods.py   methods and hyperparameters as parameters of ours, and back
graders.py   graders as rewards
requests.py  a request, checked
jobs.py      jobs and their trains: begin, wait for a file's check, cancel, pause, resume
objects.py   jobs and checkpoints as the API answers them
events.py    what has happened in a job, in pages
results.py   the metrics of an ended job as a file
"""
