"""The command line: arguments and printing only, one module a command.

It may import everything; nothing imports it. Nothing heavy is imported before a command runs, so that `--help` answers
at once. A new command is a module here with a function under `@app.command()`, imported below, and a row of the README.
"""

# a command is known to the program once its module is imported
from damlpips.cli import agree as agree
from damlpips.cli import fit as fit
from damlpips.cli import info as info
from damlpips.cli import map as map
from damlpips.cli import report as report
from damlpips.cli import score as score
from damlpips.cli import table as table
from damlpips.cli.program import app as app
