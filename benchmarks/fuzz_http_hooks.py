"""What Schemathesis is told before it starts (SCHEMATHESIS_HOOKS; `fuzz_http.py` sets it)."""

from __future__ import annotations

import schemathesis


@schemathesis.hook
def filter_case(_: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    """Leave out a form with an empty list as a value: a form has no way to send one.

    The field is simply not sent, and a request without it is a good one; Schemathesis knows that of
    lists of one value, but not of none (4.32).
    """
    is_form = isinstance(case.body, dict) and "form" in (case.media_type or "")
    return not (is_form and [] in case.body.values())
