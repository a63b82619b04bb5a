"""The laboratory around `rfmi`: what is known exactly, worlds with a judge, and the study of the notebooks."""

import rfmi  # noqa: F401 - first of all, since it keeps transformers from naming what is not needed
