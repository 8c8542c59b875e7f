"""``python -m probe`` is the ``sockflow`` command.

Python puts the working directory in front of the module search path for ``-m``, and whoever owns
that directory could run code with our rights. So it goes, unless this package itself is there.
``python -I -m probe`` keeps it out from the very first import.
"""

import sys

if not sys.flags.safe_path and sys.path and not __file__.startswith(sys.path[0].rstrip("/") + "/"):
    del sys.path[0]

from probe.commands.cli import main

raise SystemExit(main())
