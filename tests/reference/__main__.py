"""Write the pages of docs/reference from what they describe."""

from tests.reference.pages import FOLDER, PAGES

FOLDER.mkdir(exist_ok=True)
for name, write in PAGES.items():
    (FOLDER / name).write_text(write(), "utf-8")
    print(FOLDER / name)
