"""Everything that reads what others wrote, fed with what nobody would write: `make fuzz`.

The property is always the same. A reader succeeds, or raises ValueError with one short line; it takes no more memory and no
more time than its input is worth. `targets.py` says what is read, `mutate.py` how valid things are spoilt, `__main__.py` runs
them for a given time. tests/test_hostile.py tries a few examples of each in the ordinary suite.
"""
