from melcheck.suite import *  # noqa: D100, F403
