"""Makes the pages and pictures in ``docs/`` that come from the code and ``templates/``."""
