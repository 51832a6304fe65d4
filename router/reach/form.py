"""The form of what gateways, instances and the background process tell each other.

Processes of two programs may meet on one Ray cluster while it is upgraded. Who calls says the form first, as plain
text: nothing is unpickled that is of another one. Two versions of one form understand each other.
"""

from dualmap import __version__, is_compiled

FORM = 1  # tests/router/reach/test_form.py fails where what is told has changed and this number has not
OWN_FORM = f"form {FORM}, {'compiled' if is_compiled() else 'pure Python'}"
PROGRAM = f"dualmap {__version__} ({OWN_FORM})"


def why_refused(form: str, program: str) -> str:
    """What a caller of another form is told; empty where the caller's form is ours."""
    if form == OWN_FORM:
        return ""
    return f"the caller is {program}, and what it calls is {PROGRAM}: make both of one form"
