"""report.html."""
from promptbake.runs import Run
def write(run: Run) -> None:
    """Later."""
