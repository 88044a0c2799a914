"""Images in other shapes are recognised by one walk (`walker.py`), whose rules are in the other files."""

from regroup.engine.frontend.arrangements import attention, movements, sequences, work
from regroup.engine.frontend.arrangements.walker import RULES, SCORES, arrange

__all__ = ["RULES", "SCORES", "arrange", "attention", "movements", "sequences", "work"]
