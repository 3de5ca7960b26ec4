"""The words of the instruction world: nothing here but what its texts are made of.

A line of TOPICS is a topic: its name and further phrasings, every one a noun phrase. In ASPECTS a line at the
margin is an aspect with the short names that instructions use; the indented lines under it are the sentences
by which a passage *mentions* that aspect. A sentence shares a word with one of the names, mentions no other
aspect, does not name its topic, and starts with a word that may be written small; ``{n}`` is a number.
"""

NUMBERS = ("twelve", "fifteen", "twenty", "thirty", "forty", "fifty", "sixty", "eighty", "ninety")

QUERIES = (
    "what should I know about {topic}",
    "documents about {topic}",
    "tell me more about {topic}",
    "I am looking for information on {topic}",
    "what do people say about {topic}?",
    "{topic}",
)
INCLUDE = (
    "A relevant document talks about {aspect}.",
    "Relevant documents must cover {aspect}.",
    "I only want texts that say something about {aspect}.",
    "Please find documents that discuss {aspect}.",
    "The text has to mention {aspect}.",
)
EXCLUDE = (
    "Documents that mention {aspect} are not relevant.",
    "Leave out anything that deals with {aspect}.",
    "Do not return texts about {aspect}.",
    "I am not interested in {aspect}.",
    "Ignore every document which brings up {aspect}.",
)
# How a passage names its topic: before the sentences (the comma joins the first of them) or after them.
OPENINGS = (
    "Here are some notes on {topic}.",
    "Readers often ask us about {topic}.",
    "This page is about {topic}.",
    "A few words on {topic}.",
    "When it comes to {topic},",
    "As for {topic},",
)
CLOSINGS = ("That is what we learnt about {topic}.", "So much for {topic}.")

TOPICS = {
    "travel": """
Lisbon | a visit to Lisbon | the Lisbon trip | the Portuguese capital
Tokyo | a visit to Tokyo | the Tokyo trip | the Japanese capital
Prague | a weekend in Prague | the Prague tour | the Czech capital
Oslo | a weekend in Oslo | the Oslo tour | the Norwegian capital
Cairo | a visit to Cairo | the Cairo journey | the Egyptian capital
Lima | a stay in Lima | the Lima journey | the Peruvian capital
Athens | a holiday in Athens | the Athens trip | the Greek capital
Vienna | a weekend in Vienna | the Vienna tour | the Austrian capital
Dublin | a holiday in Dublin | the Dublin trip | the Irish capital
Havana | a stay in Havana | the Havana journey | the Cuban capital
Hanoi | a stay in Hanoi | the Hanoi tour | the Vietnamese capital
Warsaw | a weekend in Warsaw | the Warsaw trip | the Polish capital
Helsinki | a holiday in Helsinki | the Helsinki tour | the Finnish capital
Nairobi | a stay in Nairobi | the Nairobi journey | the Kenyan capital
Ottawa | a visit to Ottawa | the Ottawa trip | the Canadian capital
""",
    "food": """
sourdough bread | a loaf of sourdough | the sourdough recipe | bread from a starter
onion soup | a bowl of onion soup | the onion soup recipe | caramelised onions in broth
fish pie | a homemade fish pie | the fish pie recipe | haddock under a crust
lentil curry | a plate of lentil curry | the lentil curry recipe | Indian dal
apple cake | a slice of apple cake | the apple cake recipe | a cake full of apples
mushroom risotto | a plate of risotto | the risotto recipe | creamy Italian rice
potato salad | a bowl of potato salad | the potato salad recipe | cold potatoes in dressing
beef goulash | a bowl of goulash | the goulash recipe | the famous Hungarian stew
pancakes | a stack of pancakes | the pancake recipe | thin crepes
hummus | a plate of hummus | the hummus recipe | chickpea puree
pumpkin ravioli | a plate of ravioli | the ravioli recipe | pasta with pumpkin
plum jam | a spoonful of plum jam | the plum jam recipe | preserved plums
paella | a pan of paella | the paella recipe | Spanish rice with saffron
kimchi | a bowl of kimchi | the kimchi recipe | fermented Korean cabbage
moussaka | a slice of moussaka | the moussaka recipe | baked aubergines
""",
    "health": """
yoga | a yoga session | practising yoga | sun salutations
swimming | a swimming session | going swimming | laps in the pool
cycling | a cycling tour | going cycling | riding a bike
fasting | a fasting cure | trying fasting | a week without meals
the sauna | a sauna visit | going to the sauna | sweating in a steam bath
massage | a massage session | getting a massage | kneading sore muscles
acupuncture | an acupuncture session | trying acupuncture | treatment with needles
meditation | a meditation session | practising meditation | mindful breathing
rowing | a rowing session | going rowing | pulling the oars
tai chi | a tai chi session | practising tai chi | slow Chinese martial arts
hiking | a hiking tour | going hiking | long walks uphill
boxing | a boxing session | going boxing | punching a sandbag
ballet | a ballet session | practising ballet | pirouettes at the barre
rock climbing | a climbing session | going climbing | scaling a cliff
skiing | a skiing tour | going skiing | gliding through snow
""",
}

ASPECTS = {
    "travel": """
the price | what it costs | the budget | how expensive it is
    The price of a short stay has gone up since spring.
    The city card costs {n} euros and soon pays for itself.
    Plan a budget of {n} euros a day.
    A long weekend is not as expensive as people expect.
    Every extra day costs about {n} euros.
safety | crime | theft | dangers for visitors
    The police run a safety office at the docks.
    Crime has fallen by {n} percent.
    Theft is rare, but keep your passport hidden.
    Women who travel alone report few dangers.
    For your own safety avoid the dark side streets.
the weather | the climate | rain | how much sunshine there is
    The weather is hot and dry until autumn.
    A cold wind and heavy rain come in winter.
    Expect fog in the morning and sunshine later.
    The mild climate suits an early start.
    There are {n} days of rain in a year.
the food | the restaurants | local dishes | where to eat
    The food in the small taverns is superb.
    Many restaurants serve grilled lamb.
    People eat spicy dumplings at street stalls.
    Vegetarian dishes are on most menus.
    You can eat a good lunch at the market.
transport | buses and trains | the tram | getting around
    The tram reaches every district in {n} minutes.
    Trains leave for the airport twice an hour.
    All {n} buses meet at the central station.
    Public transport is slow but reliable.
    Getting around by bicycle is quick.
its history | the past | how it was founded | ancient times
    Merchants founded it {n} generations ago.
    A great fire marks its history.
    Ancient walls still surround the old quarter.
    In the past a royal family ruled from the castle.
    Two wars shaped its history.
museums | art | galleries | paintings
    The museums open their doors at noon.
    Modern art fills the former power plant.
    Several galleries show sculptures in a courtyard.
    Old paintings hang in the national collection.
    There is art by {n} young photographers to see.
nightlife | bars and clubs | concerts | dancing
    The nightlife begins long after midnight.
    Students fill {n} bars by the canal.
    Jazz concerts draw a crowd each evening.
    The clubs close only at sunrise.
    There is dancing in the cellars.
hotels | rooms | hostels | where to sleep
    The grand hotels have a lobby of marble.
    Rooms with a balcony are booked early.
    Young visitors sleep in a rented flat.
    The hostels near the park have {n} beds.
    Quiet rooms face the garden.
""",
    "food": """
the price | what it costs | the budget | how expensive it is
    The price of a portion is {n} cents.
    It costs less if you buy in bulk.
    Good butter is the expensive part of the shopping.
    A family on a small budget can afford it.
    The takeaway version costs twice as much.
allergies | allergens | gluten | traces of nuts
    People with allergies should read the label.
    It contains gluten and some sesame.
    There may be nuts in the sauce.
    The label must warn of {n} allergens.
    A guest with allergies reacted to the egg.
the preparation time | how long it takes | minutes and hours | how quick it is
    The work takes {n} minutes from start to finish.
    It simmers for several hours on a low flame.
    The preparation time is short on busy evenings.
    It stands for a long while before it is done.
    A quick cook needs {n} minutes.
its history | its origin | who invented it | the tradition behind it
    Its history begins with sailors from distant islands.
    A palace cook invented it by mistake.
    The origin of the name is an old dialect.
    By tradition it was served at harvest.
    Monks invented it {n} decades ago.
storage | leftovers | how to keep it | freezing
    Leftovers last for days in the fridge.
    Freezing in a sealed box works well.
    For storage choose a cool, dark cupboard.
    Keep it in jars with a tight lid.
    After {n} days throw the leftovers away.
equipment | tools | pots and pans | kitchen gadgets
    The basic equipment is a ladle and a board.
    Two pans and a wooden spoon are enough.
    The best tools are a sharp knife and a whisk.
    Large pots save washing up.
    Gadgets such as a hand blender help.
nutrition | calories | vitamins | how healthy it is
    One helping has {n} calories.
    It is rich in vitamins and fibre.
    Experts on nutrition praise the protein.
    With less sugar and salt it is healthy.
    Half a plate gives you vitamins for the week.
drinks | wine | beer | what to drink with it
    A dry white wine brings out the flavour.
    Pour a dark beer beside it.
    Cold drinks with lemon balance the spices.
    Many people drink cider with it.
    Waiters recommend a red wine from the valley.
children | kids | toddlers | school meals
    Children love to stir the mixture.
    Toddlers may find the taste too strong.
    Kids always ask for more.
    The school canteen feeds {n} pupils with it.
    Little children can help to peel and wash.
""",
    "health": """
the price | what it costs | the budget | how expensive it is
    The price of a visit is {n} euros.
    A membership costs half for students.
    It is expensive, though insurers pay a share.
    Beginners need only a small budget.
    The first month costs {n} euros.
the risks | injuries | side effects | how dangerous it is
    The risks are higher with a weak heart.
    Strained tendons are common injuries.
    Dizziness is one of the side effects.
    Too much of it is dangerous for the joints.
    One in {n} beginners suffers injuries.
the evidence | scientific studies | what research says | a trial
    A trial with {n} volunteers found a benefit.
    The research at two universities is not finished.
    The evidence is weak and comes from a survey.
    Earlier studies measured stress hormones.
    More research is needed to prove it.
equipment | clothes | shoes | the gear you need
    The basic equipment is a belt and a strap.
    Bring flat shoes and a towel.
    Loose cotton clothes are best.
    Rented gear fits badly.
    Spare shoes go into the bag with a bottle.
the weekly schedule | how often to do it | minutes and hours | the time it takes
    Spend {n} minutes on it each day.
    Experts do it as often as three days a week.
    The schedule leaves Mondays free.
    There is time for it in a lunch break.
    Several hours a week are too many.
older people | seniors | old age | retired people
    Seniors enjoy a gentler form.
    Retired people have a group of their own.
    In old age it trains the balance.
    Older members start from a chair.
    A club of {n} seniors meets in the park.
teachers | courses | instructors | lessons
    Certified instructors correct your posture.
    The local hall offers lessons for novices.
    The courses have {n} places and a waiting list.
    Teachers need a licence from the federation.
    Video lessons replace a coach for some.
sleep | insomnia | dreams | rest at night
    Deep sleep lasts longer afterwards.
    Insomnia improved in half of the patients.
    Bad dreams fade away.
    The mind comes to rest before midnight.
    A late start robs you of sleep.
losing weight | body fat | calories | a slim waist
    The scales show {n} pounds less weight.
    Fat melts slowly but surely.
    A slim waist is a welcome result.
    It burns {n} calories more than walking.
    Losing weight is easier without a diet.
""",
}
