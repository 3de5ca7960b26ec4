"""The texts of the parity suite: ordinary, cut, empty, of punctuation, of unknown characters."""

QUERIES = (
    ("a quiet hotel near the harbour", ""),
    ("a quiet hotel near the harbour", "Hotels without breakfast are not relevant."),
    ("  Which garden, and for WHOM?  ", ""),
    ("naïve ☃ question 🙂", "No £ prices — please!"),
    ("walks " * 60, "documents that mention cost are not relevant"),
)
"""Query and instruction; a peer sees both in one string."""

PASSAGES = (
    "The hotel lies near the harbour; breakfast is served in the garden.",
    "",
    "?!... --- ,;:",
    "雪 ☃ 🙂 unknown £ characters",
    "  White   space and CAPITALS  ",
    "hotel (quiet), [walks], {garden}: \"no\" 'breakfast' / cost & price",
    "the garden of the hotel near the harbour with breakfast and walks for no cost " * 12,
    "x",
)
CORPUS = (*(" ".join(pair) for pair in QUERIES), *PASSAGES)
