"""The teacher against truth: tables of terms, of robustness, of the quality score, of speed.

    clips -> `exact.exact_view` -> `degrade.degraded_problem` -> `solver.solve` -> `scores` -> rows -> tables

Every (case, clip) is one row in a JSON file of its own (`runner`), so that a stopped run goes on where it was.
"""
