"""Grades: the answer of a solution, and whether it means the expected one."""
