"""Makes the yardstick modules beside the tests importable; the benchmark takes them from here as well."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
