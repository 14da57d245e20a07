"The ways through the book: a table for each, with times made from the chapters."
import math
import re

WORDS, LINES, EXERCISE = 200, 25, 10       # words and lines of code in a minute; minutes for an exercise


def minutes(cells):
    "(reading, exercises): how long a chapter takes, each rounded up to five minutes."
    prose = " ".join(source for kind, source, _ in cells if kind == "markdown")
    seen = [source for kind, source, tags in cells if kind == "code" and not {"colab", "checker", "quiz"} & {*tags}]
    lines = sum(bool(line.strip()) for source in seen for line in source.splitlines())
    exercises = sum("checker" in tags for _, _, tags in cells)
    return 5*math.ceil((len(prose.split())/WORDS + lines/LINES)/5), exercises*EXERCISE


def opening(cells):
    "What a chapter promises, and how long it says that it runs."
    text = next(source for _, source, _ in cells if source.startswith("**After this chapter you can**"))
    text = " ".join(text.split()).replace("|", r"\vert ")                  # a bar would end the cell of the table
    promise = re.search(r"\*\*After this chapter you can\*\* (.*?[.])(?: |$)", text)[1]
    return promise, re.search(r"\*\*Runs\*\* (?:in )?(.*?)(?:[,;.](?: |$)|$)", text)[1]


def hours(m): return " ".join([f"{m//60} h"]*(m >= 60) + [f"{m % 60} min"]*(m % 60 > 0 or not m))


def runs(text): return re.sub(r"^(about|under) | on (one|two)( CPU)? cores?$", "", text)


def table(numbers, books):
    "One way: a row for each chapter, and the sum. Few columns, so that a phone has room for the words."
    rows, total = ["| chapter: you can then | reading | exercises | runs |", "| --- | --- | --- | --- |"], [0, 0]
    for number in numbers:
        name, = (n for n in books if n.startswith(f"{number}_"))
        reading, exercises = minutes(books[name])
        total = [total[0] + reading, total[1] + exercises]
        promise, time = opening(books[name])
        title = re.match(r"# (.*)", books[name][0][1])[1]
        rows.append(f"| [{title}]({name}.ipynb): {promise} | {hours(reading)} | {hours(exercises)} | {runs(time)} |")
    rows.append(f"| **in all** | **{hours(total[0])}** | **{hours(total[1])}** | |")
    return "\n".join(rows)


def page(text, books):
    return re.sub(r"<!-- path: ([\d ]+?) -->", lambda m: table(m[1].split(), books), text)
