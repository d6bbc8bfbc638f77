"""What happens to a row that is longer than the limit, and what that may cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from finery.chat.conversation import Conversation
from finery.chat.ledger import Ledger, RowLoss
from finery.chat.render import Rendered, Renderer
from finery.errors import Fault, InputError

MAX_TRAINED_LOSS = 0.05  # share of trainable tokens that `auto` may cut without being asked


@dataclass(frozen=True)
class Fitted:
    """A rendered row after the limit was applied; `ids` empty means the row is dropped."""

    ids: list[int]
    trained: list[bool]
    cut: int  # tokens taken away
    trained_cut: int  # loss-carrying ones among them
    reason: str  # "" when the row fits whole


def fit_row(
    renderer: Renderer, conversation: Conversation, rendered: Rendered, limit: int, policy: str
) -> Fitted:
    """`rendered` within `limit` tokens by `policy` (`auto` cuts; its guards come later)."""
    ids, trained = rendered.ids, rendered.trained
    if len(ids) <= limit:
        return Fitted(ids, trained, 0, 0, "")
    if policy == "keep_last_turns":
        return _last_turns(renderer, conversation, rendered, limit)
    kept = [] if policy in ("drop", "refuse") else trained[:limit]
    if not any(kept[1:]):
        reason = "longer than the limit" if policy == "drop" else "no trainable token within it"
        return Fitted([], [], len(ids), sum(trained), reason)
    return Fitted(ids[:limit], kept, len(ids) - limit, sum(trained[limit:]), "cut at the end")


def _last_turns(
    renderer: Renderer, conversation: Conversation, rendered: Rendered, limit: int
) -> Fitted:
    """The system message and as many of the last turns as fit, beginning with a user turn."""
    messages = list(conversation.messages)
    head = messages[:1] if messages[0]["role"] == "system" else []
    starts = [i for i, m in enumerate(messages) if m["role"] == "user" and i > len(head)]
    total, trainable = len(rendered.ids), sum(rendered.trained)
    for start in starts:
        shorter = renderer.render([*head, *messages[start:]], conversation.tools)
        if len(shorter.ids) <= limit and any(shorter.trained):
            cut, trained_cut = total - len(shorter.ids), trainable - sum(shorter.trained)
            reason = f"turns before message {start + 1} left out"
            return Fitted(shorter.ids, shorter.trained, cut, trained_cut, reason)
    return Fitted([], [], total, trainable, "even its last turn is longer than the limit")


def refusals(ledger: Ledger, policy: str) -> Iterable[Fault]:
    """Faults that stop a run whose rows are too long and no policy allows what would be lost."""
    remedy = (
        "Raise max_seq_length, or name what to do: long_rows = truncate, drop or keep_last_turns."
    )
    lost = [*ledger.cut_rows, *ledger.dropped_rows]
    if policy == "refuse":
        for loss in lost:
            yield _fault(ledger, loss, f"a row of {loss.tokens:,} tokens", remedy)
    if policy != "auto":
        return
    for loss in ledger.dropped_rows:
        yield _fault(ledger, loss, "a row that would lose all of its trainable tokens", remedy)
    share = ledger.trained_lost / max(ledger.trainable, 1)
    if share > MAX_TRAINED_LOSS:
        yield Fault(
            ledger.file,
            f"{len(lost)} rows over the limit, {100 * share:.1f} % of the trainable tokens in what "
            "would go",
            f"at most {100 * MAX_TRAINED_LOSS:.0f} % unless a policy is named",
            remedy,
        )


def _fault(ledger: Ledger, loss: RowLoss, found: str, remedy: str) -> Fault:
    where = f"{loss.file or ledger.file}:{loss.row}"
    return Fault(where, found, f"at most {ledger.max_seq_length:,} tokens", remedy)


def refuse_losses(ledgers: Iterable[Ledger], policy: str) -> None:
    """Raise InputError with every refusal of every split."""
    faults = [fault for ledger in ledgers for fault in refusals(ledger, policy)]
    if faults:
        raise InputError(faults, "rows over max_seq_length")
