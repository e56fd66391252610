"""A read-only mirror in the form of a Hugging Face hub: `HF_ENDPOINT=http://…/hub` lets programs
pull models of this platform by name, with a token of the API.

authentication.py  the token, as clients of hubs send it
answers.py         answers and refusals in the hub's form
files.py           one file, whole or a part of it
views.py           the addresses
"""
