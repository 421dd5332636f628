"""What a schedule says of a setting that it cannot work with. Pure."""


def refusal(field: str, value: object, allowed: str) -> ValueError:
    """The error for a setting; ``allowed`` completes "it must be"."""
    return ValueError(f"schedule.{field} = {value} is not allowed: it must be {allowed}")


def check(schedule: object, **rules: tuple[bool, str]) -> None:
    """Refuse a schedule with a setting that is not allowed.

    Args:
        schedule: whose settings are looked at.
        rules: by field, whether its value will do, and what is allowed.

    Raises:
        ValueError: naming the first field that will not do, its value and what is allowed.
    """
    for field, (fine, allowed) in rules.items():
        if not fine:
            raise refusal(field, getattr(schedule, field), allowed)
