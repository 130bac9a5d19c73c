# Completes xrat in fish: the words come from the program itself.
function __xrat_complete
    set -l words (commandline -opc)
    set -l found (command $words[1] __complete $words[2..] (commandline -ct) 2>/dev/null)
    if test "$found" = \tfiles
        __fish_complete_path (commandline -ct)
    else
        string join -- \n $found
    end
end
complete -c xrat -f -a '(__xrat_complete)'
