"""``python -m scaling`` is the same as the ``rl-scaling`` command."""

from scaling.cli import main

main()
