"""Tables that scripts write into documents, between markers of their own."""


def write_between(path, name, text):
    """Puts `text` between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""
    document = path.read_text()
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    if begin not in document or end not in document:
        raise SystemExit(f"{path} lacks the markers {begin.strip()} and {end}")
    before, after = document.split(begin)[0], document.split(end)[1]
    path.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}")
