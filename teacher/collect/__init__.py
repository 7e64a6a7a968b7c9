"""From videos that somebody downloaded to a manifest of what is worth labelling; `datasets/web_video` runs it.

`sources` finds the files, `shots` cuts them, `survey` looks at them twice a second, `duplicates` drops repeats,
`segments` chooses, `estimate` says what it will cost, `report` shows it, `run` does all of it.
"""
