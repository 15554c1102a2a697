"""What `host prepare` would do or has done, and `host restore` took back, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from emulator.host.prepare.steps import PreparationPlan
from emulator.operations.host.record import Outcome


def plan_json(plan: PreparationPlan) -> dict[str, object]:
    """Keys are an interface: add, do not rename."""
    return {
        "version": 1,
        "steps": [
            {
                "id": step.id,
                "title": step.title,
                "why": step.why,
                "file": step.path or None,
                "command": list(step.argv) or None,
            }
            for step in plan.steps
        ],
        **_rest(plan),
    }


def outcome_json(outcome: Outcome) -> dict[str, object]:
    """Keys are an interface: add, do not rename."""
    return {
        "version": 1,
        "done": outcome.done,
        "failed": [{"title": title, "why": why} for title, why in outcome.failed],
        "skipped": [{"title": title, "why": why} for title, why in outcome.skipped],
        "lasting": outcome.lasting,
        **_rest(outcome.plan),
    }


def _rest(plan: PreparationPlan) -> dict[str, object]:
    return {
        "reboot": list(plan.reboot),
        "notes": list(plan.notes),
        "refusal": plan.refusal[0] if plan.refusal else None,
        "manual": [{"title": step.title, "lines": list(step.lines)} for step in plan.manual],
    }


def plan_text(plan: PreparationPlan, *, manual: bool = True) -> str:
    """Each step with its reason; what is to be done by hand after it."""
    lines = [f"+ {step.title}\n    {step.why}" for step in plan.steps]
    if not lines:
        lines.append("nothing to do")
    return "\n".join([*lines, *_after(plan, manual=manual)])


def outcome_text(outcome: Outcome, word: str) -> str:
    """What was done, what could not be, and what stays."""
    lines = [f"{word}: {title}" for title in outcome.done]
    lines += [f"could not: {title}\n    {_indented(why)}" for title, why in outcome.failed]
    lines += [f"left out: {title} (optional)\n    {_indented(why)}" for title, why in outcome.skipped]
    lines += [f"stays: {text}" for text in outcome.lasting]
    if not lines:
        lines.append("nothing to do")
    return "\n".join([*lines, *_after(outcome.plan, manual=True)])


def _after(plan: PreparationPlan, *, manual: bool) -> Iterator[str]:
    yield from (f"note: {note}" for note in plan.notes)
    yield from (f"reboot: {why}" for why in plan.reboot)
    if manual and plan.manual:
        yield "\nOnly a person can do the rest:"
        for step in plan.manual:
            yield f"\n{step.title}"
            yield from (f"  {line}" for line in step.lines)


def _indented(text: str) -> str:
    return text.strip().replace("\n", "\n    ")
