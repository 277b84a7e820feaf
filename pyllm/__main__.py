"""`python -m pyllm` is the `pyllm` command."""

import sys

from pyllm.cli.main import main

sys.exit(main())
