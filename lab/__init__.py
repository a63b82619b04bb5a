"""The laboratory around `rfmi`: what is known exactly, worlds with a judge, the study that the notebooks and the command share."""
