"""Attacks for code written for other libraries: `torchattacks`, `autoattack`, `foolbox` and `art`, each under its name.

Names, arguments and defaults are theirs; what runs are fastadv's attacks. Each module says where it differs on purpose.
"""
