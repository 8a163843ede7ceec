"""Three photos to try a model on; `NOTICE` names their authors and licences."""

from pathlib import Path

__all__ = ["EXAMPLES"]

EXAMPLES = Path(__file__).parent
