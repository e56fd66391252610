"""The web server: gunicorn's ASGI worker with limits on slow clients, and Django's synchronous
stack behind it.

protocol.py and worker.py deal with sockets: who may connect, and how slowly a client may send or
take. handler.py, request_body.py and threads.py deal with requests: a page gets one of a few
threads once its request has arrived whole, while uploads and downloads have threads of their own.
"""
