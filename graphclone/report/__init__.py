"""What a Layout and a Plan say, as tables for a reader (rich) and as plain data (JSON). Pure functions; nothing is printed here."""

from graphclone.report.alike import Alike, alike, each
from graphclone.report.budget import option_table
from graphclone.report.figures import free_share, parameters
from graphclone.report.layout import axes_table, free_table, frozen_table, layout_data, stack_table, why
from graphclone.report.plan import origin_table, plan_notes, plan_table
from graphclone.report.sheet import Sheet

__all__ = [
    "Alike",
    "Sheet",
    "alike",
    "axes_table",
    "each",
    "free_share",
    "free_table",
    "frozen_table",
    "layout_data",
    "option_table",
    "origin_table",
    "parameters",
    "plan_notes",
    "plan_table",
    "stack_table",
    "why",
]
