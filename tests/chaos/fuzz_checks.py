"""A check of Schemathesis's answers, which it loads by SCHEMATHESIS_HOOKS."""

from __future__ import annotations

from typing import Any

import schemathesis

ABSENT = 501  # what finery has not got says so with it: docs/service.md


@schemathesis.check
def no_fault_of_ours(ctx: Any, response: Any, case: Any) -> None:
    """No status of 500 and above, but for the one that names what is not there."""
    status = response.status_code
    assert status < 500 or status == ABSENT, f"{status}: {response.text[:500]}"
