"""The recipes of the tasks, one file for each task's, apart from the code that trains by them.

``RECIPES`` of a file is the task's: model -> recipe name -> recipe. Nothing here imports torch or
numpy, so that a command line is understood, and ``--help`` printed, in a fraction of a second.
"""
