"""Words for the demo: the grocer's shorthand as names that people can read."""

import re

NAME_LENGTH = 30  # characters, where the data's names are cut

# Types that say how rather than what; there the category says what.
HOW = re.compile(
    r"(\b(better|blends|butts|choice|economy|enhanced|enrobed|entrees|for|garden|lean|legs|links"
    r"|mainstream|miscellaneous|other|patties|pints|plus|poultry|premium|primal|raw|regular|ribs"
    r"|rolls|select|smoked|cooked|sticks|super|traditional|upscale|value|whole|you)\b|\W)+"
)

# The commonest names that no rule makes readable.
TITLES = {
    "BEERALEMALT LIQUORS": "Beer",
    "CHOICE BEEF": "Choice beef",
    "DAIRY CASE 100% PURE JUICE - O": "Pure orange juice",
    "FLUID MILK WHITE ONLY": "White milk",
    "FRZN SS PREMIUM ENTREES/DNRS/N": "Premium frozen dinner",
    "FRZN SS PREMIUM ENTREES/DNRS/T": "Premium frozen dinner",
    "IWS SINGLE CHEESE": "Cheese slices",
    "MAINSTREAM WHEAT/MULTIGRAIN BR": "Wheat or multigrain bread",
    "MAINSTREAM WHITE BREAD": "White bread",
    "NON-CRBNTD DRNKING/MNERAL WATE": "Still water",
    "SFT DRNK 2 LITER BTL CARB INCL": "Soft drink, large bottle",
    "SFT DRNK MLT-PK BTL CARB (EXCP": "Soft drink, bottles",
    "SFT DRNK SNGL SRV BTL CARB (EX": "Soft drink, bottle",
    "SOFT DRINKS 12/18&15PK CAN CAR": "Soft drink, pack of cans",
    "SOFT DRINKS 20PK&24PK CAN CARB": "Soft drink, large pack of cans",
    "SOFT DRINKS 6PK/4PK CAN CARB (": "Soft drink, small pack of cans",
    "SS ECONOMY ENTREES/DINNERS ALL": "Frozen dinner",
    "VARIETY BEANS - KIDNEY PINTO": "Kidney and pinto beans",
    "YOGURT NOT MULTI-PACKS": "Yogurt",
}

# The chain's shorthand, spelled out as far as a list of groceries needs it.
SHORTHAND = {
    "BEERALEMALT": "beer, ale & malt",
    "BKD": "baked",
    "BKFST": "breakfast",
    "BRKFST": "breakfast",
    "BTL": "bottle",
    "BTR": "butter",
    "CAN": "can",
    "CARB": "carbonated",
    "CATFD": "cat food",
    "CHICK": "chicken",
    "CLEANG": "cleaning",
    "CRBNTD": "carbonated",
    "CRYSTL": "crystal",
    "DNRS": "dinners",
    "DRNK": "drink",
    "DRNKING": "drinking",
    "DRNKNG": "drinking",
    "DRNKS": "drinks",
    "DRSNG": "dressing",
    "FD": "food",
    "FEM": "feminine",
    "FLVRD": "flavoured",
    "FRZN": "frozen",
    "FS": "",
    "GDS": "goods",
    "GRND": "ground",
    "HYGN": "hygiene",
    "IWS": "wrapped",
    "LIQUORS": "liquor",
    "MLK": "milk",
    "MLT": "multi",
    "MNERAL": "mineral",
    "MNRL": "mineral",
    "MX": "mix",
    "MXS": "mixes",
    "PCKGD": "packaged",
    "PK": "pack",
    "PNT": "peanut",
    "PREP": "prepared",
    "PWDR": "powder",
    "PWDRS": "powders",
    "REFRGRATD": "refrigerated",
    "REFRIG": "refrigerated",
    "RTS": "ready-to-serve",
    "SALD": "salad",
    "SAUS": "sausage",
    "SFT": "soft",
    "SGL": "single",
    "SHERBTS": "sherbets",
    "SNDWCH": "sandwich",
    "SNGL": "single",
    "SPECILATY": "specialty",
    "SPLY": "supplies",
    "SPRD": "spread",
    "SRV": "serve",
    "SS": "single-serve",
    "SUP": "super",
    "SV": "serve",
    "SW": "sweet",
    "SWEETNERS": "sweeteners",
    "TORT": "tortilla",
    "TRSH": "trash",
    "VAC": "vacuum",
    "VEG": "vegetables",
    "WATE": "water",
    "WHLSM": "wholesome",
    "WT": "weight",
    "WTR": "water",
}


def spelled(kind: str | None, category: str | None) -> tuple[str | None, str | None]:
    """Title and category of a product type for people; ``None`` where there is none."""
    if kind is None or category is None:
        return None, None
    title, group = TITLES.get(kind) or _plain(kind), _plain(category)
    if kind not in TITLES and HOW.fullmatch(title.lower()):
        title = f"{group}, {title.lower()}"
    return title, group


def _plain(shorthand: str) -> str:
    """Shorthand spelled out: cut at a bracket, whole words, one capital."""
    text = re.sub(r"\s*\(.*", "", shorthand)
    if len(shorthand) == NAME_LENGTH and text == shorthand:
        # Cut short by whoever made the data: a stump of a word says nothing.
        text = re.sub(r"[ /]\w{1,4}$", "", text)
    text = re.sub(r"[A-Z]+", lambda word: SHORTHAND.get(word[0], word[0].lower()), text)
    text = re.sub(r"\s*&\s*", " & ", re.sub(r"\s*:\s*| - ", ", ", text))
    text = re.sub(r"\s+", " ", text).strip(" -/&:,")
    return text[:1].upper() + text[1:]
