"""Loaded by the schemathesis command line: SCHEMATHESIS_HOOKS=tests.fuzz.hooks"""

import json
import os

import schemathesis

from tests.fuzz.calls import name_what_is_there

name_what_is_there(schemathesis, json.loads(os.environ["FUZZ_THERE"]), int(os.environ["FUZZ_SEED"]))
