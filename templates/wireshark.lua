-- Shows enterprise-specific elements of Sockflow's IPFIX and NetFlow v9 by their names, as fields sockflow.<element>:
--   tshark -X lua_script:sockflow.lua -d udp.port==4739,cflow -T fields -e sockflow.SRC_PROC_NAME
-- In Wireshark: put this file into the folder of personal Lua plugins. Written by `sockflow templates --wireshark`.

-- enterprise, element id, NetFlow v9 field type (0: none), name, kind
local elements = {
@ELEMENTS@
}

-- Wireshark refuses Templates of more than 60 fields unless it is told otherwise; this lasts until it ends.
if set_preference then set_preference("cflow.max_template_fields", 0) end

local sockflow = Proto("sockflow", "Sockflow: elements of enterprises")
local kinds = {
    string = ProtoField.string, bytes = ProtoField.bytes, uint32 = ProtoField.uint32, uint64 = ProtoField.uint64,
    bool = ProtoField.bool, seconds = ProtoField.absolute_time, milliseconds = ProtoField.absolute_time,
}
local known = {}  -- by "enterprise/id"; those of NetFlow v9 by "9/type", since there is no enterprise 9 among ours
local fields = {}
for _, element in ipairs(elements) do
    local pen, id, type9, name, kind = table.unpack(element)
    local entry = { field = kinds[kind]("sockflow." .. name, name), kind = kind }
    table.insert(fields, entry.field)
    known[pen .. "/" .. id] = entry
    if type9 > 0 then known["9/" .. type9] = entry end
end
sockflow.fields = fields

local cflow = Field.new("cflow")
local VARIABLE = 65535
-- "exporter, domain" -> template id -> definitions in the order of their frames: a capture is read in any order.
local templates = {}

function sockflow.init()
    templates = {}
end

local function remember(session, frame, id, template)
    local all = templates[session] or {}
    templates[session] = all
    local versions = all[id] or {}
    all[id] = versions
    local last = versions[#versions]
    if not last or (last.frame < frame and last.layout ~= template.layout) then
        template.frame, template.id = frame, id
        table.insert(versions, template)
    end
end

local function recall(session, frame, id)
    local found
    for _, template in ipairs((templates[session] or {})[id] or {}) do
        if template.frame <= frame then found = template end
    end
    return found
end

-- Field Specifiers from octet `at` on; the template and the octet behind it.
local function read_specifiers(set, at, count, version)
    local template = { least = 0 }
    local start = at
    for _ = 1, count do
        local id, length, key = set(at, 2):uint(), set(at + 2, 2):uint(), nil
        at = at + 4
        if version == 9 then
            key = "9/" .. id
        elseif id >= 0x8000 then
            key = set(at, 4):uint() .. "/" .. (id - 0x8000)
            at = at + 4
        end
        local entry = key and known[key]
        table.insert(template, { length = length, entry = entry })
        template.is_ours = template.is_ours or entry ~= nil
        template.least = template.least + (length == VARIABLE and 1 or length)
    end
    template.layout = at > start and set(start, at - start):bytes():tohex() or ""
    return template, at
end

local function read_templates(set, session, frame, version, is_options)
    local at = 0
    while set:len() - at >= 6 do
        local id, count = set(at, 2):uint(), set(at + 2, 2):uint()
        if id < 256 then return end  -- padding
        at = at + 4
        if version == 9 and is_options then
            count = (count + set(at, 2):uint()) / 4
        end
        if is_options and count > 0 then at = at + 2 end
        local template
        template, at = read_specifiers(set, at, count, version)
        remember(session, frame, id, template)
    end
end

local function add_value(tree, entry, value)
    if entry.kind == "string" then
        tree:add(entry.field, value, (value:string(ENC_UTF_8):gsub("%z+$", "")))
    elseif entry.kind == "bool" then
        tree:add(entry.field, value, value:uint() == 1)
    elseif entry.kind == "seconds" then
        tree:add(entry.field, value, NSTime.new(value:uint(), 0))
    elseif entry.kind == "milliseconds" then
        local ms = value:uint64()
        tree:add(entry.field, value, NSTime.new((ms / 1000):tonumber(), (ms % 1000):tonumber() * 1000000))
    else
        tree:add(entry.field, value)
    end
end

-- The octet behind the record that begins at `at`.
local function read_record(set, at, template, tree)
    for _, field in ipairs(template) do
        local length = field.length
        if length == VARIABLE then
            length = set(at, 1):uint()
            at = at + 1
            if length == 255 then
                length = set(at, 2):uint()
                at = at + 2
            end
        end
        if field.entry and length > 0 then
            add_value(tree, field.entry, set(at, length))
        elseif field.entry then
            tree:add(field.entry.field, "")
        end
        at = at + length
    end
    return at
end

local function read_data(set, template, root)
    local at, number = 0, 0
    local tree = root:add(sockflow, set, "Sockflow, set of template " .. template.id)
    while template.least > 0 and set:len() - at >= template.least do
        number = number + 1
        local record = tree:add(sockflow, set, "Data Record " .. number)
        at = read_record(set, at, template, record)
    end
end

local function read_message(message, pinfo, root)
    local version = message(0, 2):uint()
    if version ~= 9 and version ~= 10 then return end
    local header = version == 9 and 20 or 16
    local session = table.concat({ tostring(pinfo.src), pinfo.src_port, message(header - 4, 4):uint() }, " ")
    local at = header
    while message:len() - at >= 4 do
        local id, length = message(at, 2):uint(), message(at + 2, 2):uint()
        if length < 4 then return end
        if length > 4 then
            local set = message(at + 4, length - 4)
            if id == 0 or id == 2 then
                read_templates(set, session, pinfo.number, version, false)
            elseif id == 1 or id == 3 then
                read_templates(set, session, pinfo.number, version, true)
            elseif id > 255 then
                local template = recall(session, pinfo.number, id)
                if template and template.is_ours then read_data(set, template, root) end
            end
        end
        at = at + length
    end
end

function sockflow.dissector(_, pinfo, root)
    for _, message in ipairs({ cflow() }) do
        -- What is cut off or malformed ends the message that it is in.
        pcall(read_message, message.range, pinfo, root)
    end
end

register_postdissector(sockflow)
