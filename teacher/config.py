"""The whole configuration of labelling: one field per stage, each defined beside its stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from teacher.execution.config import LimitsConfig
from teacher.initialisers.bodies import BodiesConfig
from teacher.initialisers.cameras import CamerasConfig
from teacher.initialisers.contacts import ContactsConfig
from teacher.initialisers.depth import DepthConfig
from teacher.initialisers.people import PeopleConfig
from teacher.initialisers.student.config import StudentInitConfig, check_student
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.quality import QualityConfig
from teacher.pack import PackConfig
from teacher.pictures import PicturesConfig
from teacher.readers.names import check_settings
from teacher.scene.config import GaussiansConfig
from teacher.video import VideoConfig


@dataclass(kw_only=True)
class LabelConfig:
    """`footfall label`; docs/configuration.md lists every field."""

    workers: int = 1
    """Clips labelled at the same time on this machine, each in a process of its own."""
    in_process: bool = False
    """Label in the calling process, one clip after the other: no limit holds, and a crash ends the run. For debugging,
    and for scripts that register an initialiser of their own."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    people: PeopleConfig = field(default_factory=PeopleConfig)
    student: StudentInitConfig = field(default_factory=StudentInitConfig)
    cameras: CamerasConfig = field(default_factory=CamerasConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    bodies: BodiesConfig = field(default_factory=BodiesConfig)
    contacts: ContactsConfig = field(default_factory=ContactsConfig)
    optimise: OptimiseConfig = field(default_factory=OptimiseConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    gaussians: GaussiansConfig = field(default_factory=GaussiansConfig)
    pictures: PicturesConfig = field(default_factory=PicturesConfig)
    pack: PackConfig = field(default_factory=PackConfig)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers: got {self.workers}, expected at least 1")
        check_settings(
            bodies_use=self.bodies.use, bodies_model=self.bodies.body_model, contacts_use=self.contacts.use,
            contacts_model=self.contacts.body_model, optimise_file=self.optimise.body_file,
        )  # fmt: skip
        check_student(
            self.student.checkpoint,
            {
                "cameras": self.cameras.use, "depth": self.depth.use, "bodies": self.bodies.use,
                "contacts": self.contacts.use,
            },
        )  # fmt: skip
