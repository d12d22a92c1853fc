"""Keyword rules for prompts whose upstream category joins two of ours, such as drugs and weapons.

The rules only ever split a category that people assigned; they never find a category by themselves. What they decide is
weak, and a prompt that matches neither list keeps the upstream category without a split.
"""

import re

from emosafe_lib.sources.base import Record

SUBSTANCES = re.compile(
    r"\b(drugs?|cocaine|heroin|meth(amphetamines?)?|crystal meth|opioids?|fentanyl|marijuana|cannabis|weed|lsd|mdma|"
    r"ecstasy|ketamine|steroids?|narcotics?|pills?|prescriptions?|painkillers?|xanax|adderall|alcohol|liquor|beer|vodka|"
    r"cigarettes?|tobacco|vap(e|es|ing)|ghb|crack|hallucinogens?|psychedelics?|mushrooms?|overdose|dope|stoned)\b",
    re.IGNORECASE,
)
WEAPONS = re.compile(
    r"\b(guns?|firearms?|pistols?|rifles?|handguns?|shotguns?|ammunition|ammo|bullets?|silencers?|bombs?|explosives?|"
    r"grenades?|weapons?|dynamite|molotov|ied|landmines?|missiles?|nerve agents?|sarin|anthrax|ricin|chemical weapons?|"
    r"switchblades?|brass knuckles|ak-?47|ar-?15|glock|napalm|thermite|tnt|c4|shoot(ing|er)?|warheads?)\b",
    re.IGNORECASE,
)


def substances_or_weapons(text: str) -> tuple[str, ...]:
    """Which of the two categories the words of a prompt name: none, one or both."""
    found = (("guns_illegal_weapons", WEAPONS), ("regulated_substances", SUBSTANCES))
    return tuple(name for name, words in found if words.search(text))


def split(record: Record) -> Record:
    """The record with the categories that its words name added."""
    return Record(record.id, record.text, record.label, record.link, record.emotion, substances_or_weapons(record.text))
