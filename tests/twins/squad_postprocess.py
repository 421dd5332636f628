"""From logits to answers, slow and obvious, after the description of the reference.

Null score: the lowest, over the windows of a question, of the scores of their first token. Of each
window the 20 best starts times the 20 best ends; without those whose token is out of range or has
no offset, whose end is before the start, or that are longer than 30 tokens. The null answer is
added, all are sorted by score, the 20 best kept, and null is put back if it fell out. If only an
empty answer is left, "empty" with score 0 goes to the front. The answer is empty if null's score
exceeds that of the best answer with text by more than the threshold.
"""


def best_indices(logits, n: int = 20) -> list[int]:
    ranked = sorted(range(len(logits)), key=lambda i: logits[i], reverse=True)
    return ranked[:n]


def answer(context: str, windows: list[dict], threshold: float = 0.0) -> str:
    """``windows`` have ``start``, ``end`` (logits) and ``offsets`` (pairs or None)."""
    null_score = None
    pool = []
    for window in windows:
        start, end, offsets = window["start"], window["end"], window["offsets"]
        first = start[0] + end[0]
        if null_score is None or first < null_score:
            null_score = first
        for i in best_indices(start):
            for j in best_indices(end):
                if i >= len(offsets) or j >= len(offsets):
                    continue
                if offsets[i] is None or offsets[j] is None:
                    continue
                if j < i or j - i + 1 > 30:
                    continue
                pool.append(
                    {
                        "text": context[offsets[i][0] : offsets[j][1]],
                        "score": start[i] + end[j],
                        "start": start[i],
                        "end": end[j],
                        "null": False,
                    }
                )
    null = {"text": "", "score": null_score, "start": 0.0, "end": 0.0, "null": True}
    pool.append(null)
    pool.sort(key=lambda candidate: candidate["score"], reverse=True)
    pool = pool[:20]
    if not any(candidate["null"] for candidate in pool):
        pool.append(null)
    if len(pool) == 1 and pool[0]["text"] == "":
        pool.insert(0, {"text": "empty", "score": 0.0, "start": 0.0, "end": 0.0, "null": False})
    best = next(candidate for candidate in pool if candidate["text"] != "")
    difference = null_score - best["start"] - best["end"]
    return "" if difference > threshold else best["text"]
