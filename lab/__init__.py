"""The laboratory around `rfmi`: what is known exactly, worlds with a judge, and the study of the notebooks."""
