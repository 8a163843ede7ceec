"""`python -m refseg` is `refseg`."""

from refseg.cli.main import main

raise SystemExit(main())
