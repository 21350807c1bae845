"""How many attacks were tried, and how they ended."""

from collections import Counter


def pytest_terminal_summary(terminalreporter):
    """A row for each file: what was met well is right or refused as it should be."""
    counts = Counter()
    for outcome, ended in (("passed", "well"), ("failed", "badly"), ("error", "badly")):
        for report in terminalreporter.getreports(outcome):
            file, _, name = report.nodeid.partition("::")
            if "attack/" in file and name:
                counts[file.rpartition("/")[2], ended] += 1
    files = sorted({file for file, _ in counts})
    if files:
        terminalreporter.write_line(
            "\n| attack | tried | well | badly |\n| --- | ---: | ---: | ---: |"
        )
    for file in files:
        well, badly = counts[file, "well"], counts[file, "badly"]
        terminalreporter.write_line(f"| {file} | {well + badly} | {well} | {badly} |")
