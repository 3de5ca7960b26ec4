"""The words of the instruction world: nothing here but what its texts are made of.

A line of TOPICS is a topic: its name and further phrasings, every one a noun phrase. In ASPECTS a line at the
margin is an aspect with the short names that instructions use; the indented lines under it are the sentences
by which a passage *mentions* that aspect. A sentence mentions one aspect only, does not name its topic, and
starts with a word that may be written small; ``{n}`` stands for a number.
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
the price | what it costs | the costs | how expensive it is
    Most visitors spend about {n} euros a day.
    A short stay is cheaper than people expect.
    The city card costs {n} euros and soon pays for itself.
    Prices have gone up by a third since spring.
    You need a budget of {n} euros for the weekend.
safety | crime | how safe it is | theft and other dangers
    Pickpockets work the crowded squares, so watch your bag.
    The police warn walkers to stay away from the docks.
    Women who travel alone report few dangers.
    Theft is rare, but keep your passport hidden.
    Crime has fallen and strangers feel safe.
the weather | the climate | rain and sunshine | how hot or cold it gets
    It rains on {n} days between autumn and spring.
    Summers are hot and the sun burns from noon.
    A cold wind blows from the hills in winter.
    Expect fog in the morning and sunshine later.
    Snow is rare, yet the climate asks for a warm coat.
local food | the restaurants | what people eat there | eating out
    The grilled fish in the small taverns is superb.
    Street stalls sell spicy dumplings.
    Breakfast means strong coffee and a sweet pastry.
    Vegetarians find a good menu in most restaurants.
    Book a table to taste the local lamb.
transport | getting around | buses and trains | how to get from place to place
    The tram reaches every district in {n} minutes.
    A train leaves for the airport twice an hour.
    Taxis are slow, while the underground is quick.
    Rent a bicycle to get around.
    All {n} bus lines meet at the central station.
its history | the past | how the town was founded | old times
    Merchants founded the town many centuries ago.
    A great fire destroyed the old quarter in the past.
    The royal family ruled from the castle for {n} years.
    Two wars moved the borders of the former kingdom.
    Roman walls still tell of ancient times.
museums | art | galleries and exhibitions | paintings and sculptures
    The national gallery shows {n} portraits by old masters.
    A modern art collection fills the former power plant.
    Sculptures stand in the courtyard of the museum.
    The exhibition of photographs changes every month.
    Painters open their studios to the public.
nightlife | bars and clubs | going out at night | concerts and dancing
    Dance floors fill up after midnight.
    Jazz bands play in {n} cellar bars.
    Students drink beer in the pubs all night.
    The clubs close only at sunrise.
    An open air concert draws a crowd each evening.
hotels | where to sleep | rooms and hostels | places to stay
    The hostel near the park has {n} beds.
    Rooms with a balcony are booked early.
    A quiet guesthouse offers clean sheets.
    Families sleep in a rented flat.
    The grand hotel has a lobby of marble.
""",
    "food": """
the price | what it costs | the costs | how cheap it is
    The shopping comes to {n} cents a portion.
    Buying in bulk makes it cheaper still.
    It costs a fraction of the takeaway version.
    Good butter is the expensive part of the bill.
    At such a price a family can afford it every week.
allergies | allergens | who should not eat it | nuts, milk and gluten
    It contains gluten and a trace of nuts.
    People who cannot digest milk should avoid it.
    An allergic guest reacted to the sesame.
    Leave out the egg if you are intolerant.
    The label must warn of {n} known allergens.
the preparation time | how long it takes | the hours of work | minutes and hours
    The work takes {n} minutes from start to finish.
    Let it rest for an hour before you serve.
    It simmers slowly all afternoon.
    Busy cooks are done in {n} minutes.
    Start the day before, since it must stand overnight.
its history | its origin | where the recipe comes from | who invented it
    Monks wrote the recipe down {n} decades ago.
    Sailors brought it home from distant islands.
    A palace cook invented it by mistake.
    The name goes back to an old dialect.
    It became popular in the age of steam.
storage | how to keep it | leftovers | freezing and shelf life
    Leftovers keep for days in the fridge.
    It freezes well in a sealed box.
    Store the rest in a cool, dark cupboard.
    Jars with a tight lid stop it from spoiling.
    After {n} hours at room temperature throw it away.
equipment | the tools you need | pots and pans | kitchen gadgets
    You need a heavy pan and a wooden ladle.
    A sharp knife and a board are enough.
    The oven must have a grill and a deep tray.
    Use a hand blender with a steel blade.
    Borrow a large pot, a sieve and a whisk.
nutrition | calories | vitamins and fat | how healthy it is
    One helping has {n} grams of protein.
    It is rich in vitamins and fibre.
    The fat content worries people on a diet.
    Half a plate covers the daily need for iron.
    With less sugar and salt it would be healthier.
drinks | wine and beer | what to drink with it | a matching drink
    A dry white wine brings out the flavour.
    Pour a dark beer beside it.
    Sparkling water with lemon goes well with the meal.
    Waiters recommend a young red from the valley.
    A glass of cold cider balances the spices.
children | cooking for kids | what children think of it | girls and boys
    Children love to stir the mixture.
    Toddlers may find the taste too strong.
    Our kids always ask for more.
    Schools serve it to {n} hungry pupils.
    Girls and boys can help a parent to peel and wash.
""",
    "health": """
the price | what it costs | the costs | fees and discounts
    A monthly membership costs {n} euros.
    Some insurers pay half of the fee.
    Beginners spend little in the first year.
    A single visit is priced at {n} euros.
    Discounts make it cheap for students.
the risks | injuries | side effects | how dangerous it is
    Strained tendons are the most common injury.
    People with a weak heart must ask a doctor first.
    Dizziness and cramps are known side effects.
    One in {n} beginners gets hurt.
    Overdoing it is dangerous for the joints.
the evidence | scientific studies | what research says | proof that it works
    A trial with {n} volunteers found a clear benefit.
    Researchers at two universities doubt the claims.
    The data come from a survey and remain weak.
    A review of published studies was positive.
    Scientists measured lower stress hormones.
equipment | the gear you need | clothes and shoes | what to wear
    Bring flat shoes and a towel.
    Buy a sturdy belt and a strap.
    Loose cotton clothes are best.
    Rented gear fits badly, so use your own.
    The kit bag should hold a bottle and spare socks.
the weekly schedule | how often to do it | the time it takes | days and hours
    Spend {n} minutes on it each day.
    Twice a week is the usual rhythm.
    It fits into an early lunch break.
    A full hour is better than several short ones.
    Keep Mondays free in the calendar.
older people | seniors | growing old | doing it in old age
    Seniors over seventy enjoy a gentler form.
    Retired people meet in a group of their own.
    Grandparents keep their balance that way.
    The elderly may start from a chair.
    An old body simply adapts more slowly.
teachers | courses | where to learn it | lessons with an instructor
    A certified instructor corrects your posture.
    The local club offers lessons for novices.
    Video tutorials replace a coach for some.
    The course has {n} places and a waiting list.
    Teachers need a licence from the federation.
sleep | insomnia | how well you sleep | dreams and rest
    Many people fall asleep faster afterwards.
    Insomnia improved in half of the members.
    Deep sleep lasts longer on such nights.
    A late start keeps you awake in bed.
    Bad dreams fade and you wake up fresh.
losing weight | body weight | burning fat | a slim waist
    The scales showed {n} pounds less.
    Body fat melts slowly but surely.
    A slim waist is a welcome result.
    The metabolism speeds up and kilos drop.
    Obese patients lose weight without a diet.
""",
}
