"""Converting units by whole factors: lengths, weights, times, amounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn
from fcd.builtin.generator.checks import last_number
from fcd.builtin.generator.wrap import loosen, wrap


@dataclass(frozen=True)
class Unit:
    """`factor` of `small` make one of `large`; questions go up to `most` of the larger one."""

    large: str
    larges: str
    small: str
    smalls: str
    factor: int
    most: int


UNITS: Final = (
    Unit("kilometre", "kilometres", "metre", "metres", 1000, 50),
    Unit("metre", "metres", "centimetre", "centimetres", 100, 50),
    Unit("centimetre", "centimetres", "millimetre", "millimetres", 10, 100),
    Unit("km", "km", "m", "m", 1000, 50), Unit("m", "m", "cm", "cm", 100, 50),
    Unit("cm", "cm", "mm", "mm", 10, 100), Unit("kg", "kg", "g", "g", 1000, 50),
    Unit("kilogram", "kilograms", "gram", "grams", 1000, 50),
    Unit("kilometer", "kilometers", "meter", "meters", 1000, 50),
    Unit("meter", "meters", "centimeter", "centimeters", 100, 50),
    Unit("litre", "litres", "millilitre", "millilitres", 1000, 50), Unit("liter", "liters", "ml", "ml", 1000, 50),
    Unit("tonne", "tonnes", "kg", "kg", 1000, 50),
    Unit("hour", "hours", "minute", "minutes", 60, 10), Unit("minute", "minutes", "second", "seconds", 60, 10),
    Unit("day", "days", "hour", "hours", 24, 7), Unit("week", "weeks", "day", "days", 7, 12),
    Unit("year", "years", "month", "months", 12, 10), Unit("foot", "feet", "inch", "inches", 12, 10),
    Unit("yard", "yards", "foot", "feet", 3, 20), Unit("dozen", "dozen", "piece", "pieces", 12, 10),
    Unit("decade", "decades", "year", "years", 10, 20), Unit("century", "centuries", "year", "years", 100, 20),
    Unit("euro", "euros", "cent", "cents", 100, 50), Unit("dollar", "dollars", "cent", "cents", 100, 50),
)  # fmt: skip

CONVERT: Final = Phrasings(
    (
        "How many {to} are {n} {frm}?", "Convert {n} {frm} to {to}.", "{n} {frm} in {to}",
        "What is {n} {frm} in {to}?", "How many {to} are in {n} {frm}?", "How many {to} is {n} {frm}?",
        "{n} {frm} to {to}",
        "How many {to} do {n} {frm} have?", "Convert {n} {frm} into {to}.", "How much is {n} {frm} in {to}?",
        "{n} {frm} = how many {to}?", "Change {n} {frm} to {to}.", "Express {n} {frm} in {to}.",
        "{n} {frm} are how many {to}?", "How many {to} make {n} {frm}?", "Turn {n} {frm} into {to}.",
        "{n} {frm} into {to}",
    ),
    (
        "Can you convert {n} {frm} to {to}?", "How many {to} are there in {n} {frm}?",
        "Tell me how many {to} {n} {frm} are.", "What are {n} {frm} in {to}?",
        "Please convert {n} {frm} into {to}.",
    ),
)  # fmt: skip


def make(ctx: Context) -> list[Turn]:
    """Larger units to smaller ones, and back where the result is whole."""
    rng = ctx.rng
    unit = rng.choice(UNITS)
    count = rng.randint(1, unit.most) if rng.random() < 0.8 else 1
    larges = unit.large if count == 1 else unit.larges
    total = count * unit.factor
    template = loosen(CONVERT.pick(ctx), rng)
    if rng.random() < 0.65:
        question = template.format(n=count, frm=larges, to=unit.smalls)
        return [Turn(wrap(question, rng), f"{count} {larges} = {total} {unit.smalls}", last_number(total))]
    question = template.format(n=total, frm=unit.smalls, to=unit.larges)
    return [Turn(wrap(question, rng), f"{total} {unit.smalls} = {count} {larges}", last_number(count))]


SKILLS: Final = (Skill("unit conversion", make, (CONVERT,), weight=2.5),)
