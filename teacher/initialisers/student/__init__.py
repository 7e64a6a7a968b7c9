"""Starting values from a student (SPIN's loop, ICCV 2019): its streaming result instead of the embedded initialisers.

`footfall label ... --init student:CHECKPOINT` runs the stage `student` (`streaming`), and the slots `cameras`, `depth`,
`bodies` and `contacts` take their files from it. Importing this package registers them. People stay those of the
`people` stage: a student has neither masks nor keypoints that were measured, and the joint solve needs both.
"""

from teacher.initialisers.student import slots

__all__ = ["slots"]
