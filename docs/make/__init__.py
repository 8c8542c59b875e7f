"""The pages and pictures in ``docs/`` that are made of the code and of ``templates/``."""
