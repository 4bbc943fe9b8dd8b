"""The package's one logger."""

import logging
from typing import Final

logger: Final = logging.getLogger(__package__)
# Who configures no logging sees nothing of a failure that was handled.
logger.addHandler(logging.NullHandler())
