"""``python -m probe`` is the ``sockflow`` command."""

from probe.cli import main

raise SystemExit(main())
