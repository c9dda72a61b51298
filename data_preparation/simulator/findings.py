"""What is drawn for a simulated patient, and the diagnoses that follow from it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Findings:
    """What is drawn for one patient; the diagnoses follow from it.

    Sites are anterior, lateral or inferior.
    """

    rhythm: str = "sinus"  # or fibrillation, flutter, junctional, paced
    rate: float = 72.0  # mean ventricular rate, beats a minute
    swing: float = 0.04  # peak-to-peak respiratory change of the sinus RR interval, seconds
    conduction: str = "normal"  # or rbbb, irbbb, lbbb, nsivcb, lafb
    pr: float = 0.16  # seconds
    qrs: float = 0.09  # seconds
    qtc: float = 0.41  # QT at one beat a second with a narrow QRS (Bazett), seconds
    axis: float = 45.0  # frontal QRS axis from the net QRS areas in I and aVF, degrees
    voltage: float = 1.2  # largest peak-to-peak QRS among the limb leads, mV
    t_wave: str = "normal"  # or inverted, flat, biphasic
    t_site: str = "anterior"  # where an inverted T lies
    q_site: str = "none"  # where there is a pathological Q wave, with normal conduction only
    st: str = "none"  # or depressed, elevated
    st_site: str = "lateral"
    ectopy: str = "none"  # or pac, pvc
    ectopics: int = 0  # how many of them in 10 seconds
    fibrillating_atria: bool = False  # of a paced heart
    atrial_rate: float = 300.0  # flutter waves a minute
    noise: float = 1.0  # factor on every disturbance
    age: int = 60  # years
    male: bool = True

    @property
    def has_p_waves(self) -> bool:
        """Whether the atria beat before the ventricles."""
        return self.rhythm not in ("fibrillation", "flutter") and not self.fibrillating_atria


MEANING = {
    "fibrillation": "AF",
    "flutter": "AFL",
    "junctional": "JR",
    "paced": "PR",
    "rbbb": "CRBBB",
    "irbbb": "IRBBB",
    "lbbb": "LBBB",
    "nsivcb": "NSIVCB",
    "lafb": "LAnFB",
    "inverted": "TInv",
    "flat": "TAb",
    "biphasic": "TAb",
    "elevated": "MI",
    "depressed": "STD",
    "pac": "PAC",
    "pvc": "PVC",
}


def diagnoses(findings: Findings) -> list[str]:
    """Return the abbreviations of the Challenge's diagnoses that these findings mean.

    A few that the Challenge does not score are among them: MI, STD and JR.
    """
    f = findings
    slow, fast, irregular = f.rate < 60, f.rate > 100, f.swing >= 0.12
    if f.rhythm == "paced":  # hides everything else
        applying = {f.rhythm: True, "AF": f.fibrillating_atria, f.ectopy: True}
    else:
        sinus = f.rhythm == "sinus"
        applying = {
            f.rhythm: True,
            "NSR": sinus and not (slow or fast or irregular),
            "SB": sinus and slow,
            "STach": sinus and fast,
            "SA": sinus and irregular,
            "IAVB": sinus and f.pr > 0.20,
            "LPR": sinus and f.pr > 0.24,
            "Brady": slow and not sinus,
            f.conduction: True,
            "LAD": -90 <= f.axis < -30,
            "RAD": 90 < f.axis <= 180,
            "LQRSV": f.voltage < 0.5,
            "LQT": f.qtc > 0.46,
            "QAb": f.q_site != "none",
            f.t_wave: True,
            f.st: True,
            f.ectopy: True,
        }
    return [
        MEANING.get(name, name)
        for name, applies in applying.items()
        if applies and name not in ("sinus", "normal", "none")
    ]
