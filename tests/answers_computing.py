"""Answers to the exercises on computing, right and wrong, which `test_exercises` tries."""

RIGHT = {
    "computing-absolute": [([1, -1], [1, 1]), ([2, -0.5], [0.5, 2]), ([-4.0, 1.0], (0.25, 1))],
    "computing-polygon": [lambda n_points, length: 2 / n_points],
    "computing-recall": [lambda l1_coeff, d_in, length: max(0.0, 1 - l1_coeff * d_in / (2 * length))],
    "computing-present": [lambda n_features, density: n_features * density / (1 - (1 - density) ** n_features)],
}

WRONG = [
    ("computing-absolute", ([1, 1], [1, 1]), "same sign"),
    ("computing-absolute", ([1, 0], [1, 1]), "reads nothing"),
    ("computing-absolute", ([1, -1], [1, -1]), "negative sign"),
    ("computing-absolute", ([1, -1], [2, 2]), "2 times"),
    ("computing-absolute", ([2, -0.5], [2, 0.5]), "reads times writes"),
    ("computing-absolute", ([1, float("nan")], [1, 1]), "finite"),
    ("computing-absolute", [1, -1], "shape"),
    ("computing-polygon", lambda n, length: 2 / (n - 2), "itself"),
    ("computing-polygon", lambda n, length: 1 / n, "sum to 2"),
    ("computing-polygon", lambda n, length: n / 2, "turned"),
    ("computing-polygon", lambda n, length: 2 * length**2 / n, "cancel"),
    ("computing-polygon", lambda n, length: 0.5, "projections"),
    ("computing-recall", lambda l1, d, w: 1 - l1 / (2 * w), "d_in"),
    ("computing-recall", lambda l1, d, w: max(0, 1 - l1 * d / w), "factor of 2"),
    ("computing-recall", lambda l1, d, w: max(0, 1 - l1 * d / 2), "length is missing"),
    ("computing-recall", lambda l1, d, w: l1 * d / (2 * w), "smallest size"),
    ("computing-recall", lambda l1, d, w: 1 - l1 * d / (2 * w), "range"),
    ("computing-recall", lambda l1, d, w: 1.0, "one size in ten"),
    ("computing-present", lambda n, p: n * p, "empty ones included"),
    ("computing-present", lambda n, p: 1 - (1 - p) ** n, "chance"),
    ("computing-present", lambda n, p: 1 + (n - 1) * p, "any of them"),
    ("computing-present", lambda n, p: n * p / 2, "at least one"),
    ("computing-present", lambda n, p: 7.0, "31 inputs"),
]
