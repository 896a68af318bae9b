"""python -m fastpg"""

import sys

from fastpg.cli import main

sys.exit(main())
